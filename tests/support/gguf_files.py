"""Tiny GGUF files of a Llama, with a tokenizer."""

import numpy as np
from gguf import GGUFWriter

HIDDEN = 32
WIDTH = 64
LAYERS = 2
VOCABULARY = 100


def llama_tensors(seed=0):
    """Return the tensors of a Llama with a tied embedding, by their names in GGUF."""
    generator = np.random.default_rng(seed)

    def random(*shape):
        return (0.1 * generator.standard_normal(shape)).astype(np.float32)

    tensors = {"token_embd.weight": random(VOCABULARY, HIDDEN), "output_norm.weight": random(HIDDEN)}
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN),
            "ffn_down": (HIDDEN, WIDTH), "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,),
        }  # fmt: skip
        for name, shape in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = random(*shape)
    return tensors


def write_llama(path, tensors):
    """Write a GGUF file with these tensors and a tokenizer with one token per character."""
    characters = [chr(code) for code in range(33, 33 + VOCABULARY - 5)]
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<pad>", "<s>", "</s>", *characters, "!#", '!"'])
    writer.add_token_types([3, 3, 3] + [1] * (VOCABULARY - 3))
    writer.add_token_merges(["! #", '! "'])  # some versions of transformers read a single one as text
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
