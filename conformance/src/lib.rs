//! The executable definition of a correct lease store
