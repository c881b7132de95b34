"""The name that this version of transformers gives to the cache of keys and values."""

from transformers import LlamaForCausalLM

from sparsedial.cache_arguments import cache_argument

CACHE = cache_argument(LlamaForCausalLM.forward)
