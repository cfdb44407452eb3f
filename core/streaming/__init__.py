"""Work on images larger than memory, part by part: what to look at, in which order, and how the parts become one result."""
