//! Later: the plan.
