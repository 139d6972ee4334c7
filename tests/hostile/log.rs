//! Lies in a log: S3, S4, S21, S28, S29, S31, S33, S34, S37, and versions and sizes that would
//! poison what the victim tells others.
