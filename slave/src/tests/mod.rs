//! Whole slaves in one process, led by a scripted master.

mod cached;
mod cluster;
mod copies;
mod forgotten;
mod moves;
mod reading;
mod sparse;
mod stages;
