from transformers import AutoTokenizer


def get_tokenizer(place, *, tokenizer_mode, **options):
    return AutoTokenizer.from_pretrained(place, **options)
