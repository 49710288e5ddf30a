//! From the program that balances to the one that translates: it goes on with what was parsed.

use aya_ebpf::{
    macros::map,
    maps::{PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use lb_common::{Service, ServiceId, Verdict};

use crate::parse::Packet;

/// Pinned by the daemon, by another name for each load: both programs have to be of the same.
#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// By CPU. For as long as a packet is under way the CPU runs no other one: XDP programs run with softirqs off, test runs too.
#[map]
static HANDED_OVER: PerCpuArray<HandedOver> = PerCpuArray::with_max_entries(1, 0);

/// What the program that translates goes on with.
pub struct HandedOver {
    pub packet: Packet,
    /// The service of the packet; one that does not exist if it is for none.
    pub service: Service,
}

/// Goes on in the program that translates. It returns only if that is not there, with what becomes of the packet then.
#[inline(always)]
pub fn go_on_in_translate(ctx: &XdpContext, packet: &Packet, service: Option<&Service>) -> Verdict {
    let Some(place) = HANDED_OVER.get_ptr_mut(0) else { return Verdict::DropInternal };
    // SAFETY: the place belongs to this CPU, and nobody else runs on it now.
    unsafe {
        (*place).packet = *packet;
        (*place).service.id = ServiceId::default();
        if let Some(service) = service {
            (*place).service = *service;
        }
    }
    // SAFETY: the program takes the same context, and nothing of this one is needed any more.
    unsafe { PROGRAMS.tail_call(ctx, 0) };
    Verdict::DropInternal
}

/// What [`go_on_in_translate`] has handed over to this run of the program.
#[inline(always)]
pub fn handed_over() -> Option<&'static HandedOver> {
    // SAFETY: as there; nobody writes before the next packet.
    HANDED_OVER.get_ptr(0).map(|place| unsafe { &*place })
}
