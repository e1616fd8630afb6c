"""Reports: records and their evidence arrays in, one self-contained HTML file out. Imports no torch."""
