"""What can be measured of a network besides its accuracy: curvature, landscapes, potential."""
