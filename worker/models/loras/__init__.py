"""LoRA adapters by name: from an operator's folder into the layers of a loaded model, row by row.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. docs/lora.md says what operators
and clients see. `folder` lists and judges files by their headers and needs no torch; `weights` reads one; `layers` is
what it adds to a layer; `adapters` keeps those in memory that are in use, and some more. A family makes its own once:

    self.adapters = Adapters(checkpoint.loras, device, dtype, unet=unet, text_encoder=text_encoder)
"""
