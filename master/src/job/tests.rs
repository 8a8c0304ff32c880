//! Promises of a job's driver, of its choice of slaves and of its tables' homes, and of its reading: events in, commands out.

mod admission;
mod again;
mod driver;
mod homes;
mod long;
mod reading;
mod readings;
mod resume;
mod together;
mod told;
mod tuning;
mod width;
