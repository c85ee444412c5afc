"""The run folder and what is read out of it: metrics, summary, and the HTML report. No torch."""
