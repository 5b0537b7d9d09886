-- Adoption: what stood in the database before Sluice came, and how a sign-up that got lost since is known.
-- May be run again at any time: what was imported is never imported anew, nor overwritten.

set local lock_timeout = '5s';

-- Instances of the set-up before us keep their names and tokens. A create was claimed for each of them, so a run reads
-- back before it creates. A row that carries another user's name is not believed.
insert into sluice.resource (name, subject, secret, exclusive_at, created_at, memory)
select
  instance_name,
  user_id::text,
  coalesce(instance_token, gen_random_uuid()::text),
  now(),
  coalesce(created_at, now()),
  jsonb_strip_nulls(
    jsonb_build_object(
      'imported', true,
      'status', case
        when instance_status in ('creating', 'disconnected', 'connecting', 'connected', 'error') then instance_status
        else 'creating'
      end,
      'webhook_url', webhook_url,
      'qr_code', qr_code,
      'phone_number', phone_number,
      'paired', case when instance_status in ('connected', 'disconnected') then true end
    )
  )
from public.evolution_instances
where coalesce(created_at, '-infinity') <= (select value::timestamptz from sluice.setting where name = 'adopted_at')
  and user_id is not null
  and char_length(instance_name) between 1 and 255
  and instance_name !~ '[[:cntrl:]]'
  and (instance_name = 'user_' || user_id or instance_name !~ '^user_[0-9a-f]{8}-[0-9a-f]{4}-')
  and not exists (select from sluice.resource as held where held.subject = user_id::text)
on conflict do nothing;

-- The users whose sign-up got lost: a profile since the adoption, and later than `since`, without queue row, instance row
-- and run. When a profile was made is told by its own created_at or, where it has none, by the user's in auth.users.
do $$
declare
  made_at text;
begin
  if to_regclass('public.profiles') is null then
    made_at := null;
  elsif exists (
    select
    from pg_catalog.pg_attribute
    where attrelid = to_regclass('public.profiles')
      and attname = 'created_at'
      and not attisdropped
  ) then
    made_at := 'select profiles.id, profiles.created_at as made_at from public.profiles';
  elsif to_regclass('auth.users') is not null then
    made_at := 'select profiles.id, users.created_at as made_at
      from public.profiles join auth.users on users.id = profiles.id';
  end if;

  if made_at is null then
    raise notice 'sluice: there is no profiles table that tells when a profile was made: lost sign-ups are not looked for';
    made_at := 'select null::uuid as id, null::timestamptz as made_at where false';
  end if;

  execute format(
    $function$
    create or replace function sluice.lost_sign_ups(since interval)
    returns table (user_id uuid, made_at timestamptz)
    language sql
    stable
    security definer
    set search_path = ''
    as $body$
      select made.id, made.made_at
      from (%s) as made
      where made.made_at > now() - since
        and made.made_at > (select value::timestamptz from sluice.setting where name = 'adopted_at')
        and not exists (select from public.evolution_instance_creation_queue as queue where queue.user_id = made.id)
        and not exists (select from public.evolution_instances as shown where shown.user_id = made.id)
        and not exists (select from sluice.run where run.subject = made.id::text)
    $body$
    $function$,
    made_at
  );

  execute format(
    $function$
    create or replace function sluice.older_sign_ups()
    returns bigint
    language sql
    stable
    security definer
    set search_path = ''
    as $body$
      select count(*)
      from (%s) as made
      where made.made_at <= (select value::timestamptz from sluice.setting where name = 'adopted_at')
        and not exists (select from public.evolution_instance_creation_queue as queue where queue.user_id = made.id)
        and not exists (select from public.evolution_instances as shown where shown.user_id = made.id)
        and not exists (select from sluice.run where run.subject = made.id::text)
    $body$
    $function$,
    made_at
  );
end
$$;

revoke all on function sluice.lost_sign_ups(interval) from public;
revoke all on function sluice.older_sign_ups() from public;
do $$
begin
  grant execute on function sluice.lost_sign_ups(interval) to sluice_runtime;
  grant execute on function sluice.older_sign_ups() to sluice_runtime;
exception
  when undefined_object then
    raise notice 'sluice: role sluice_runtime is not there: grant execute on sluice.lost_sign_ups to the services'' role';
end
$$;
