"""Cycles and collectives of a program small enough to count by hand."""

from sg_jax.costs import hlo

PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_matmul (p: bf16[8,16], q: bf16[16,4]) -> bf16[8,4] {
  %p = bf16[8,16]{1,0} parameter(0)
  %q = bf16[16,4]{1,0} parameter(1)
  %dot = bf16[8,4]{1,0} convolution(%p, %q), dim_labels=bf_io->bf
  ROOT %max = bf16[8,4]{1,0} maximum(%dot, %dot)
}

%fused_norm (p: f32[8,4]) -> f32[8] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %r = f32[8]{0} reduce(%p, %p), dimensions={1}, to_apply=%add
}

%fused_copy (p: bf16[8,4]) -> bf16[4,8] {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %t = bf16[4,8]{1,0} transpose(%p), dimensions={1,0}
}

%gather_start (p: bf16[4,4]) -> bf16[16,4] {
  %p = bf16[4,4]{1,0} parameter(0)
  ROOT %g = bf16[16,4]{1,0} all-gather(%p), channel_id=1, dimensions={0}
}

%body (state: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %state = (s32[], bf16[8,4]{1,0}) parameter(0)
  %start = bf16[16,4]{1,0} fusion(%w), kind=kCustom, calls=%gather_start
  %beside = bf16[8,4]{1,0} fusion(%x, %start), kind=kOutput, calls=%fused_matmul, backend_config={"window_config":{"estimated_cycles":"100"}}
  %done = bf16[16,4]{1,0} fusion(%start), kind=kCustom, calls=%gather_start
  %attention_backward_2.7 = (bf16[8,16,4]{2,1,0}, f32[8,4]{1,0}) custom-call(%beside), custom_call_target="tpu_custom_call"
  ROOT %out = (s32[], bf16[8,4]{1,0}) tuple(%n, %beside)
}

%condition (state: (s32[], bf16[8,4])) -> pred[] {
  %state = (s32[], bf16[8,4]{1,0}) parameter(0)
  %bound = s32[] constant(5)
  ROOT %less = pred[] compare(%n, %bound), direction=LT
}

ENTRY %main (x: bf16[8,16]) -> f32[8] {
  %x = bf16[8,16]{1,0} parameter(0)
  %loop = (s32[], bf16[8,4]{1,0}) while(%tuple), condition=%condition, body=%body
  %known = (s32[], bf16[8,4]{1,0}) while(%loop), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"2"}}
  %turned = bf16[4,8]{1,0} fusion(%y), kind=kLoop, calls=%fused_copy, backend_config={"estimated_cycles":"7"}
  %all = f32[10]{0} all-reduce(%z), channel_id=2, to_apply=%add
  ROOT %norm = f32[8]{0} fusion(%y), kind=kLoop, calls=%fused_norm, backend_config={"estimated_cycles":"30"}
}
"""  # noqa: E501


def test_cycles_count_as_often_as_loops_run_most_first():
    cycles = hlo.cycles_by_kind(PROGRAM)
    assert cycles == {"matmul": (5 + 2) * 100, "reduction": 30, "copy": 7}
    assert list(cycles) == ["matmul", "reduction", "copy"]


def test_what_is_outside_of_loops_can_be_left_out():
    assert hlo.cycles_by_kind(PROGRAM, loops_only=True) == {"matmul": 700}


def test_kernels_are_known_by_name_and_shape_and_count_as_often_as_loops_run():
    assert hlo.kernels(PROGRAM) == {("attention_backward_2", (8, 16, 4)): 5 + 2}


def test_a_collective_counts_once_however_many_fusions_it_runs_beside():
    found = hlo.collectives(PROGRAM)
    assert found["all-gather"] == hlo.Collectives(count=5, bytes=5 * 16 * 4 * 2)
    assert found["all-reduce"] == hlo.Collectives(count=1, bytes=10 * 4)
    assert list(found) == ["all-gather", "all-reduce"]


def test_a_program_without_any_has_none():
    assert hlo.collectives("ENTRY %main (x: f32[]) -> f32[] {\n  %x = f32[] parameter(0)\n}") == {}


BRANCHES = """
%cheap (p: bf16[8,4]) -> bf16[8,4] {
  ROOT %kept = bf16[8,4]{1,0} copy(%p), backend_config={"estimated_cycles":"2"}
}

%dear (p: bf16[8,4]) -> bf16[8,4] {
  %one = bf16[8,4]{1,0} fusion(%p), kind=kOutput, calls=%fused_matmul, backend_config={"estimated_cycles":"50"}
  %nested = bf16[8,4]{1,0} conditional(%if, %one, %one), true_computation=%cheap, false_computation=%cheap
  ROOT %two = bf16[8,4]{1,0} fusion(%one), kind=kOutput, calls=%fused_matmul, backend_config={"estimated_cycles":"60"}
}

ENTRY %main (x: bf16[8,16]) -> bf16[8,4] {
  ROOT %chosen = bf16[8,4]{1,0} conditional(%which, %y, %y), branch_computations={%cheap, %dear}
}
"""  # noqa: E501


def test_of_branches_the_most_costly_one_counts():
    program = PROGRAM[: PROGRAM.index("ENTRY")] + BRANCHES
    assert hlo.cycles_by_kind(program) == {"matmul": 50 + 60, "copy": 2}
