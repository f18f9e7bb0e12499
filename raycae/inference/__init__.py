"""Use trained models: encode, decode, colourise, export."""
