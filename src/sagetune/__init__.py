"""sagetune: config -> samples -> tokens -> training step -> checkpoint -> report. The README draws the files in that order."""
