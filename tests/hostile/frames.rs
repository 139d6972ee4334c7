//! Single messages that break a rule: S12-S19, S24, S32, S36, S42, and the fields of M9.
