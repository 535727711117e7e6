"""From a prompt's text to what a denoiser is conditioned on: syntax, chunks, weights, textual-inversion embeddings.

Knows tokenizers and text encoders, and of a family only the function that calls its encoder. docs/prompts.md has the
syntax. Nothing is imported here, so that `embeddings` can be had without torch.

A family makes one `ClipEncoder` for each CLIP text encoder it has, and may call it with any text of any length:

    def penultimate(ids, mask):  # [n, 77] each
        out = text_encoder_2(ids, output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds  # [n, 77, width], and [n, projection] or None

    first = ClipEncoder(tokenizer, text_encoder, last_but_one, embeddings=checkpoint.embeddings)
    second = ClipEncoder(tokenizer_2, text_encoder_2, penultimate, embeddings=checkpoint.embeddings)

    one, two = first.encode(text), second.encode(text)
    both = side_by_side(one, two)
    both.hidden    # [1, 77 chunks, width + width_2]
    two.pooled     # [1, projection], of the first chunk
    both.warnings  # what a job must say, such as that something was not used

and one `T5Tokens` for a T5 encoder, which has one length and cuts what is longer, with a warning:

    tokens = t5_tokens(tokenizer_3, text, 256)
    hidden = text_encoder_3(tokens.ids.to(device))[0]  # [1, 256, width]
    tokens.warnings

Warnings go into `Conditioning(tensors, warnings=...)`. A prompt and its negative prompt may be of different length:
`Conditioning.lengthened` brings both to the same number of chunks, tensor by tensor along dimension 1. So a family that
puts CLIP's and T5's tokens behind one another keeps them as two tensors and joins them in `predict`.
"""
