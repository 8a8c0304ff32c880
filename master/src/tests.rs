//! Promises of a running master, with scripted slaves on an in-process network.

mod again;
mod clients;
mod fake;
mod held;
mod old;
mod shown;
mod slaves;
mod waits;
