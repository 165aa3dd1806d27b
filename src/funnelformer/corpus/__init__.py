"""From text to rows of tokens to pretrain on: read, tokenised, cut into blocks, kept, masked."""
