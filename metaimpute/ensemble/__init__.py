"""Several systems on the same features, combined by what they predict for labelled rows that they have not seen."""
