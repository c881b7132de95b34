"""Read the trials of finished studies into typed tables: curves, averages, breakdowns and size trends."""
