//! The chart, by the programs that judge it: helm, a real API server, and the binary that its pods run.

mod alerts;
mod common;
mod custom;
mod dashboard;
mod gates;
mod image;
mod manifests;
mod monitors;
mod package;
mod readme;
mod rights;
mod running;
mod scrape;
mod server;
mod settings;
