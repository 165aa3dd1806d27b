"""Work on more than one machine: divide sources into work items, make each part once, and run on Ray."""
