"""The choice of the backend by the kind of the model."""

from dataclasses import replace

import pytest

from sparsedial.errors import ModelError
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.block_diffusion_backend import BlockDiffusionBackend
from sparsedial.inference.causal_backend import CausalBackend
from sparsedial.inference.masked_diffusion_backend import MaskedDiffusionBackend


def test_the_kind_decides(trained, masked_lm):
    expected = [(trained, CausalBackend), (masked_lm, MaskedDiffusionBackend)]
    expected.append((replace(trained, kind="block-diffusion"), BlockDiffusionBackend))
    for lm, backend_type in expected:
        backend = make_backend(lm)
        assert type(backend) is backend_type
        assert (backend.lm, backend.kind) == (lm, lm.kind)


def test_a_masked_diffusion_model_needs_a_mask_token(masked_lm):
    with pytest.raises(ModelError, match="has no mask token"):
        make_backend(replace(masked_lm, mask_token=None))


def test_an_unknown_kind_is_an_error(trained):
    with pytest.raises(ModelError, match="of kind 'recurrent': expected one of causal, "):
        make_backend(replace(trained, kind="recurrent"))
