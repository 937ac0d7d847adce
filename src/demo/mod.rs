//! What `tollgate demo` puts behind and around a gate: a small messaging backend that knows nothing of keys, scopes or
//! limits, and a policy to play with. Must never be reached from anything but the demonstration.

pub mod backend;
mod body;
pub mod workspace;
