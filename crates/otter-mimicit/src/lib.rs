//! Makers of MIMIC-IT data sets: the synthetic toybox world.
