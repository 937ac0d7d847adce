use super::limit::*;
use smallvec::SmallVec;
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub limit: LimitIx,
    pub id: LimitId,
    pub subject: SubjectKey,
    pub crowded: Option<SubjectKey>,
    pub ceiling: Ceiling,
    pub weight: u64,
    pub mode: Mode,
}
pub type Asks = SmallVec<[Ask; 6]>;
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub limit: LimitIx,
    pub mode: Mode,
    pub ceiling: Ceiling,
    pub used: u64,
    pub remaining: u64,
    pub admits: bool,
    pub wait: Option<u64>,
    pub more_in: Option<u64>,
}
pub type Readings = SmallVec<[Reading; 6]>;
pub fn refusing(_readings: &[Reading]) -> Option<&Reading> {
    None
}
pub fn longest_wait(_readings: &[Reading]) -> Option<u64> {
    None
}
