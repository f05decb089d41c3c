//! As much SQL as a pooler needs to understand.
