"""Run in a checkout of hE (f3b8ff3): wires connections.rs and source_hash.rs (copy both to tests/tests/packet/balance/) into the
packet tests. Never run yet: the worktree was gone before."""
def sub(path, *pairs):
    s = open(path).read()
    for a, b in pairs:
        assert s.count(a) >= 1, (path, a)
        s = s.replace(a, b, 1)
    open(path, 'w').write(s)
sub('lb-userspace/src/schedule/rotation.rs', ("#[cfg(test)]\nmod tests {", "#[cfg(test)]\n#[expect(clippy::cast_precision_loss, reason = \"the numbers are small\")]\nmod tests {"))
F = 'tests/tests/packet/fixture.rs'
sub(F, ("        dataplane.open_flow_tables(bits, IDLE_TICKS).expect(\"there can be a flow table\");", "        let (tables, _) = dataplane.open_flow_tables(bits, IDLE_TICKS).expect(\"there can be a flow table\");"),
 ("            dataplane,\n            clock,", "            dataplane,\n            tables,\n            clock,"),
 ("    dataplane: Dataplane,\n    clock", "    dataplane: Dataplane,\n    tables: FlowTables,\n    clock"),
 ("use lb_userspace::dataplane::{Dataplane, DataplaneError, Maps, VirtualMacs};", "use lb_userspace::{\n    dataplane::{Dataplane, DataplaneError, FlowTables, Maps, Sweep, VirtualMacs, sweep},\n    model::Subject,\n};"),
 ("    /// The folder of pins.", "    /// Forgets all flows, as the daemon does.\n    pub(crate) fn forget_flows(&self) {\n        self.tables.table().clear();\n    }\n\n    /// Lets the daemon sweep the flow table.\n    pub(crate) fn sweep(&self, subjects: &mut [Subject]) -> Sweep {\n        sweep(&self.tables.table(), &self.dataplane.maps.words(), subjects)\n    }\n\n    /// The folder of pins."))
P = 'tests/tests/packet/balance/schedule.rs'
s = open(P).read()
s = s.replace("        scene.balancer.flow_table().clear();", "        scene.balancer.forget_flows();")
s = s.replace("struct Scene {", "pub(super) struct Scene {").replace("    balancer: Balancer,\n}", "    pub(super) balancer: Balancer,\n    pub(super) service: Service,\n}")
s = s.replace("Self { balancer }", "Self { balancer, service }").replace("Scheduler, SlotWord, layout", "Scheduler, Service, SlotWord, layout")
for f in ["fn new(weights", "fn schedule(&mut self", "fn send(&mut self", "fn connect(&mut self"]:
    s = s.replace("    " + f, "    pub(super) " + f)
s = s.replace("\nfn segment(", "\npub(super) fn segment(").replace("\nconst OWNER", "\npub(super) const OWNER").replace("\nconst ROTATION_CHUNK", "\npub(super) const ROTATION_CHUNK")
s = s.replace("(number >> 22) as u8, (number >> 14) as u8], 1024 + (number & 0x3fff) as u16", "byte(number >> 22), byte(number >> 14)], 1024 + port")
s = s.replace("    let mut packet = FAMILIES[0].packet(IpNumber::TCP);\n    packet.source", "    let byte = |number: u32| number.to_le_bytes()[0];\n    let port = u16::try_from(number & 0x3fff).expect(\"14 bits\");\n    let mut packet = FAMILIES[0].packet(IpNumber::TCP);\n    packet.source")
open(P, 'w').write(s)
sub('tests/tests/packet/balance/mod.rs', ("mod configured;", "mod configured;\nmod connections;"), ("mod services;\n", "mod services;\nmod source_hash;\n"))
