"""sagetune: config -> samples -> tokens -> training step -> checkpoint -> report; files in that order in the README."""
