"""What several tests share: models, runs, processes, cases."""
