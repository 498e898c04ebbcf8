"""How the tiny model was made: corpus → tokenizer → train → evaluate. Never imported by v4kit."""
