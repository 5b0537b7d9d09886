-- I6: every end of an attempt and every change of a run leaves a row that says why.
select step.run_id || ' at ' || step.name || ' was claimed ' || step.attempts || ' times, ' || count(attempt.id)
  || ' attempts have ended, and it is ' || step.state
from sluice.step
left join sluice.attempt on attempt.run_id = step.run_id and attempt.position = step.position
group by step.run_id, step.position
having step.attempts <> count(attempt.id) + (step.state = 'running')::integer
union all
select run.id || ' is ' || run.state || ' with ' || count(letter.id) || ' open dead letters'
from sluice.run
left join sluice.dead_letter as letter on letter.run_id = run.id and letter.resolved_at is null
group by run.id
having count(letter.id) <> (run.state = 'dead')::integer
union all
select run.id || ' is ' || run.state || ' and ' || count(event.id) || ' events say so'
from sluice.run
left join sluice.event on event.run_id = run.id and event.routing_key = run.workflow || '.' || run.state
where run.state <> 'active'
  and not (run.internal and run.state = 'succeeded')
group by run.id
having count(event.id) <> 1
union all
select 'an attempt of ' || run_id || ' at ' || step || ' is ' || outcome || ' and nothing says why'
from sluice.attempt
where outcome <> 'succeeded'
  and coalesce(error, '') = ''
