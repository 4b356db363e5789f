"""Ways of decoding behind one interface. The built-in one is `decoding.generate`; cards name the others."""
