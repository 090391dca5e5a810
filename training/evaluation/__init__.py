"""Measuring fill models on a folder of conditions: by a judge, by measures, beside a baseline."""
