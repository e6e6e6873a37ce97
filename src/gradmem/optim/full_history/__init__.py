"""Baselines that keep every term: SAG, SAGA and SVRG, for a finite sum."""
