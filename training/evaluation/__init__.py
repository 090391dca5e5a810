"""Evaluation of fill models on an edit data set: by a judge, by measures, against a baseline."""
