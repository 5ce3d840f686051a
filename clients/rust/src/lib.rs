//! Stubs of Tokenwire's public contract, generated from `protos/` when the crate is built.
//!
//! `frontend::v1` is the contract, text in and text out; `rpc` has Google's messages for the details
//! of errors.

pub use google::rpc;
pub use tokenwire::frontend;

// The layout of the packages, since generated code names what it imports from their root.
mod tokenwire {
    pub mod frontend {
        #[allow(clippy::all)]
        pub mod v1 {
            tonic::include_proto!("tokenwire.frontend.v1");
        }
    }
}

mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
