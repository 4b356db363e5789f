"""Forms of dataset rows. One file per form; each is a card on the axis `formats`."""
