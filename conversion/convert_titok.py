"""Convert original TiTok tokenizers, one or all, to our format.

Run it with --help; `titok-hf convert tokenizer` is the same command. What does the work can be imported from here.
"""

if __name__ == "__main__":
    from titok_hf.cli import main

    main("convert", "tokenizer")
else:
    from titok_hf.original.conversion import convert_all_tokenizers, convert_tokenizer

    __all__ = ["convert_all_tokenizers", "convert_tokenizer"]
