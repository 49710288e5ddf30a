//! Thousands of live connections, and a balancer whose backends change all the time: which connections does that break?
//!
//! | file | what it is |
//! |---|---|
//! | `changes.rs` | random changes: which, and when |
//! | `stage.rs` | the lab with one service, whose backends say their names |
//! | `driver.rs` | makes the changes by `lbctl` |
//! | `judge.rs` | which broken connections were on a backend that died |
//! | `trial.rs` | all of it together |

mod changes;
mod driver;
mod judge;
mod stage;
mod trial;

pub use self::{
    changes::{Change, Changes, Step},
    driver::Driver,
    judge::{Death, Judgement},
    stage::{PORT, Settings, Stage},
    trial::{Outcome, Trial, seed},
};
