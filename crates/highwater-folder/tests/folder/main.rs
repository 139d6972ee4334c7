//! What the folder crate promises, tried on real directories.

mod auditing;
mod confinement;
mod placing;
mod reading;
mod roots;
mod scanning;
mod share;
mod staging;
mod unprivileged;
mod watching;
