"""How a run is carried out, whatever the method."""
