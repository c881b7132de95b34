"""Sites for sparsedial: two vectors at once, some layers only, and a vector that no built-in site has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sparsedial as sd


@sd.register_site
class UpAndGate(sd.Site):
    """Both factors of the intermediate vector of a gated FFN."""

    name = "up_and_gate"
    vectors = ("up", "gate")

    def skippable_macs(self, ffn: sd.FFN) -> Mapping[str, float]:
        """Return the share of the multiply-accumulates that each vector saves at most.

        g is computed first. Where an entry of g is dropped, a row of up and a column of down can be skipped. Where an
        entry of u is dropped, only the column of down is left to skip, because its row of gate has been computed.

        Args:
            ffn: The FFN.
        """
        total = sum(ffn.macs)
        down = ffn.macs.reads_intermediate / total
        return {"up": down, "gate": ffn.macs.reads_input / 2 / total + down}


@sd.register_site
class InputOfFirstHalf(sd.Site):
    """The input vector of the FFNs in the first half of the layers."""

    name = "input_of_first_half"
    vectors = ("input",)

    def select(self, ffns: Sequence[sd.FFN]) -> Sequence[sd.FFN]:
        """Return the FFNs of the first half.

        Args:
            ffns: All FFNs of the model.
        """
        layers = sorted({ffn.layer for ffn in ffns})
        first_half = set(layers[: (len(layers) + 1) // 2])
        return [ffn for ffn in ffns if ffn.layer in first_half]


@sd.register_site
class Output(sd.Site):
    """The output vector of the FFN. Nothing can be skipped, because its entries are known only once it is computed."""

    name = "output"
    vectors = (sd.ModuleVector("output", lambda ffn: ffn.down, "output", lambda ffn: ffn.output_size),)

    def skippable_macs(self, ffn: sd.FFN) -> Mapping[str, float]:
        """Return the share of the multiply-accumulates that the vector saves at most.

        Args:
            ffn: The FFN.
        """
        return {"output": 0.0}
