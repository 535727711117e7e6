"""From a prompt's text to what a denoiser is conditioned on: syntax, chunks, weights, textual-inversion embeddings.

Knows tokenizers and text encoders, and of a family only the function that calls its encoder. docs/prompts.md has the
syntax. Nothing is imported here, so that `embeddings` can be had without torch.

A family makes one `ClipEncoder` for each CLIP text encoder it has, and may call it with any text of any length:

    def last_but_one(ids, mask):  # on the CPU  # [n, 77] each
        out = text_encoder_2(ids.to(device), output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds  # [n, 77, width], and [n, projection] or None

    two = ClipEncoder(tokenizer_2, text_encoder_2, last_but_one, number=1, embeddings=checkpoint.embeddings)

    both = encode_side_by_side(text, one, two)
    both.hidden    # [1, 77 chunks, width + width_2]
    both.pooled    # [1, projection], of the first chunk; of several encoders that pool, one behind the other
    both.warnings  # what a job must say, such as that something was not used

For a T5 encoder, which has one length, there are tokens; what is longer is cut, and a warning says so:

    tokens = t5_tokens(tokenizer_3, text, 256)
    hidden = text_encoder_3(tokens.ids.to(device))[0]  # [1, 256, width]

All warnings go into `Conditioning(tensors, warnings=...)`. A prompt and its negative prompt may differ in length:
`Conditioning.as_long_as` appends the empty prompt's chunks to what is shorter, tensor by tensor along dimension 1. So a
family that puts CLIP's and T5's tokens behind one another keeps them as two tensors, and joins them in `predict`.
"""
