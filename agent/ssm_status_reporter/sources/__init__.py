"""Where results come from. A source watches, decodes, hands in, and acknowledges only after the commit."""
