//! Whole slaves in one process, led by a scripted master.

mod again;
mod cached;
mod checkpoint;
mod cluster;
mod copies;
mod filtered;
mod forgotten;
mod in_memory;
mod master;
mod moves;
mod own_updates;
mod packed;
mod reading;
mod snapshots;
mod sparse;
mod stages;
mod summed;
mod tangled;
mod together;
