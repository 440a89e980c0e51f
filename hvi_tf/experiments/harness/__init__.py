"""What experiments share: cells, measurements, plots and the report."""
