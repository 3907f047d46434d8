"""Text streams for calibration, healing and measuring: where text comes from, and how it becomes token windows."""
