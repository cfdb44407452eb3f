"""`geovit classify --report`: one HTML file with map, areas, spectra and accuracy, which needs no network and no other file."""
