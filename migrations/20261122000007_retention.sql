-- Retention: what the relay may delete, and no more.
-- May be run again at any time.

-- The services write the audit and cannot change it. This is all they can remove: rows older than a week, and older than
-- they ask for.
create or replace function sluice.prune_audit(older_than interval, most integer)
returns bigint
language sql
volatile
security definer
set search_path = ''
as $$
  with old as (
    select id
    from sluice.audit
    where at < now() - greatest(older_than, interval '7 days')
    order by id
    limit most
  ),
  gone as (
    delete from sluice.audit
    using old
    where audit.id = old.id
    returning audit.id
  )
  select count(*) from gone
$$;

revoke all on function sluice.prune_audit(interval, integer) from public;

do $$
begin
  grant execute on function sluice.prune_audit(interval, integer) to sluice_runtime;
exception
  when undefined_object then
    raise notice 'sluice: role sluice_runtime is not there: grant execute on sluice.prune_audit to the services'' role';
end
$$;
