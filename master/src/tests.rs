//! Promises of a running master, with scripted slaves on an in-process network.

mod clients;
mod fake;
mod slaves;
