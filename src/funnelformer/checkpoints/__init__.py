"""Models' folders of every known form: found, read, converted, compared."""
